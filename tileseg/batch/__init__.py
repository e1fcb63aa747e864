"""Archives: many scenes in one go, a catalogue of what came out, and one layer of all polygons."""
