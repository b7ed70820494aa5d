"""The words that all rooms use: request, reply, errors, limits, wait, context, and the seams to the world."""
