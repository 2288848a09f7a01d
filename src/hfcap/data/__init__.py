"""Sources of captioned images, read into rows `{image_id, image, captions}`."""
