"""Masks that are shapes in a text file: COCO, LabelMe and YOLO, each read and drawn as its own tool draws it."""
