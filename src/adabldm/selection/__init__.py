"""Which results to keep: scores of an edit, and the reasons to reject one."""
