"""Measurements: `fastdeit bench`, its harness and its cases."""
