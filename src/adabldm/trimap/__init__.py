"""From images and real defect masks to trimaps: foreground, defect shapes, placement, the trimap itself."""
