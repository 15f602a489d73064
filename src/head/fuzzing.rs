//! A door for the fuzz targets (`tools/fuzz`). Only there when built with `--cfg fuzzing`.

pub use super::text::fuzzing::catalog_text;
