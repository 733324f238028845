"""Python imports this at its start where this folder is on PYTHONPATH: so it reaches workers that tests start."""

from tests.suites.plug import plug_in

plug_in()
