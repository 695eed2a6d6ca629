"""Commands on checkpoints: `import`, `export`, `predict`."""
