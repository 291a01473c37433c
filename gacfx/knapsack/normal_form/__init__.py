"""Problems as sorted tables on their lattice, the cheapest plan paid in advance."""
