"""The studio: pages in the browser to paint, review, prepare data, fit, generate and evaluate."""
