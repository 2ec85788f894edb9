"""The studies: each answers one question, prints its table and checks its promises."""
