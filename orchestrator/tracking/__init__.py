"""The only room that imports MLflow: it reads a run's record and is never read."""
