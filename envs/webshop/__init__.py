"""WebShop (Yao et al., 2022: https://arxiv.org/abs/2207.01206, https://github.com/princeton-nlp/WebShop), without Java.

    WebShop()             a shop generated from a seed: nothing to download, tasks of chosen difficulty
    WebShop(data=FOLDER)  WebShop itself: upstream's products, goals, pages, rewards (the extra `webshop`)
    Expert, Novice        scripted, for the generated shop: one navigates well and fails often, one never goes back
    TinyShop()            a shop so small that a tiny model learns it from scratch, with TinyExpert and CheapExpert

Both WebShops have the same pages, upstream's text observations: visible texts joined with " [SEP] ". The generated one
differs on purpose in two ways: a search needs the search bar (upstream takes one on any page, and then no task would
need Back), and texts match word for word (upstream's matching is fuzzy, which its scraped products need).

    catalogue   products, goals, and what a shop is       search      BM25, twice
    generated   a shop from a seed                        scoring     the reward
    upstream    a shop from upstream's files              pages       the observations
    env         the environment                           policies    the two shoppers
    tiny        the tiny shop and its experts
"""

from envs.webshop.env import WebShop
from envs.webshop.policies import Expert, Novice
from envs.webshop.tiny import CheapExpert, TinyExpert, TinyShop

__all__ = ["CheapExpert", "Expert", "Novice", "TinyExpert", "TinyShop", "WebShop"]
