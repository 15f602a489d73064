//! Layers. (Skeleton.)
