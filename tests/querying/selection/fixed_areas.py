"""The same pixels of a region in every image, whatever these are."""


class FixedAreas:
    def __init__(self, areas_R):
        self.areas_R = areas_R

    def of(self, position_S, region_S):
        return self.areas_R[region_S]

    def row(self, position):
        return self.areas_R
