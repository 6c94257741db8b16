"""One executable for every size: views, fusion, memory and the flow."""
