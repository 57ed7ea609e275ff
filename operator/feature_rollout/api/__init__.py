"""The six kinds as Pydantic models, and how they become a plan.

Nothing is imported here: the models take a tenth of a second to build, and a command that
does not read manifests shall not wait for them.
"""
