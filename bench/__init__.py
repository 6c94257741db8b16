"""Claims of this package, each with its peer, protocol and bars. See ARCHITECTURE in docs/explanation."""
