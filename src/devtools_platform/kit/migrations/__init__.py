"""How a database comes to hold `kit.schema`: one file a step, run by `kit.database.migrate`.

A released step is never edited; the next one mends it.
"""
