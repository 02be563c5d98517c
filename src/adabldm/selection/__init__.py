"""Which results are kept: the rules, and the reasons to reject one."""
