"""From a model to one annotated-ready graph: skeletons on the meta device, capture, attention."""
