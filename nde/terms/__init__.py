"""What the terms of a differential equation are made of."""
