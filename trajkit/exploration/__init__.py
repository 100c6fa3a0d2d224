"""Running rollouts: environments, policies, and what of a plan is not done yet."""
