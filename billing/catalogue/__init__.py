"""The price catalogue: what a version of a price says, which model it is for, and the data that it begins with."""
