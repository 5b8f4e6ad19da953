"""What a split will do, told before it is done: steps, sizes, times, what crosses."""
