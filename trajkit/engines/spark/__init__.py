"""runs/ opened with Spark: the same rules, on a cluster.

    trajkit.open("s3a://bucket/runs", engine="spark", master="spark://host:7077").rule("eef")

runs.py has the folder with its tables and rules as views of Spark, files.py the Parquet files as its file systems have
them, translate.py the SQL in its dialect.
"""
