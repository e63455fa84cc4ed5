//! The content store: images from layouts and archives, layers unpacked safely.
