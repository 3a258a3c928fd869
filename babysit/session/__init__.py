"""How a run is driven."""
