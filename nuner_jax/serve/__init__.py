"""A small web service around NuNER.predict."""
