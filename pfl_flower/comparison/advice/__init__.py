"""What a comparison recommends, chosen on validation data; evidence of test data, and caveats."""
