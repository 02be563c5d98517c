"""The service: edits over HTTP with models that stay loaded, jobs that outlive the server, and folders within roots.

What other code in this process calls is `engine.EditEngine`, `jobs.JobQueue` and `api.create_app`.
"""
