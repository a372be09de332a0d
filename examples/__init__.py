"""Programs to read and run, each as ``python -m examples.NAME`` from the project's directory."""
