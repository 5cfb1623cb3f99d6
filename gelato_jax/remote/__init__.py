"""Two machines: a device that drafts, an edge that verifies, and the calls between them (`edge.proto`).

`edge.serve` is the server, `device.stream` decodes against one. Needs the extra `remote`.
"""
