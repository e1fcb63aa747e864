"""From labelled scenes to a model folder: ``train(TrainSpec)``."""
