"""How a step runs as a Prefect task: resumable, remote, approved, recorded."""
