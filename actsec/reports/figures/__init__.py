"""Drawings as inline SVG, by hand: crisp, small, the same bytes every time, coloured by the page's own variables."""
