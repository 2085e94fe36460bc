"""The method, without Qt and without napari."""
