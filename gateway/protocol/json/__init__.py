"""JSON on the wire: its types, the strict reader of bodies, and edits of bytes without parsing."""
