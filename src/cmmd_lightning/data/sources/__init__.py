"""Where clips come from: folders, tables of segments, known corpora."""
