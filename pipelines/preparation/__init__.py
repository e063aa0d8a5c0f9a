"""From a folder of songs to training data: ingest, curation, analysis, automix."""
