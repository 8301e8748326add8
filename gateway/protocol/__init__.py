"""The canonical values and contracts that every dialect is decoded into, free of I/O."""
