"""The tests: unit needs nothing, integration starts servers, acceptance starts whole worker processes."""
