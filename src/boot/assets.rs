//! Network boot programs in memory, by exact name. Read from disk once, at start; a request's name is
//! looked up in a table and never becomes a path.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::error::{BootError, BootErrorKind};
use super::facts::Arch;
use super::plan::loaders_of;
use crate::limits;

/// Where distributions put them: Debian and Ubuntu (`ipxe`), Fedora and SUSE (`ipxe-bootimgs`).
const PACKAGE_DIRS: [&str; 3] = [
    "/usr/lib/ipxe",
    "/usr/share/ipxe",
    "/usr/share/ipxe/arm64-efi",
];
/// Every architecture that can have a loader.
const ARCHES: [Arch; 5] = [
    Arch::Bios,
    Arch::UefiX64,
    Arch::UefiArm64,
    Arch::UefiIa32,
    Arch::UefiArm32,
];

/// The table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assets {
    files: BTreeMap<String, Arc<[u8]>>,
}

impl Assets {
    /// From `dir` of the administrator, every plain file; or the known names from the package.
    pub(crate) fn load(dir: Option<&Path>) -> Result<Self, BootError> {
        let mut assets = Self::default();
        match dir {
            Some(dir) => assets.load_all(dir)?,
            None => assets.load_known(&PACKAGE_DIRS.map(Path::new))?,
        }
        Ok(assets)
    }

    /// A file by its exact name.
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<[u8]>> {
        self.files.get(name)
    }

    /// The best loader there is for `arch`.
    pub(crate) fn loader_for(&self, arch: Arch) -> Option<&'static str> {
        let mut names = loaders_of(arch).iter().copied();
        names.find(|name| self.files.contains_key(*name))
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// A sentence for each common architecture that cannot boot.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let common = [Arch::Bios, Arch::UefiX64];
        let missing = common.into_iter().filter(|a| self.loader_for(*a).is_none());
        missing
            .map(|arch| {
                let names = loaders_of(arch).join(" or ");
                format!(
                    "no network boot program for {arch}: machines with {arch} firmware whose ROM is not iPXE \
                     cannot boot; install the package `ipxe`, or put {names} into the directory of \
                     `[boot] loaders`"
                )
            })
            .collect()
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn of(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(n, d)| ((*n).to_owned(), Arc::from(*d)));
        Self {
            files: files.collect(),
        }
    }

    fn load_all(&mut self, dir: &Path) -> Result<(), BootError> {
        let shown = dir.display();
        let failed = |e| {
            let next = "create it, or leave `[boot] loaders` out to use the package `ipxe`";
            let text = format!("the directory of loaders {shown} cannot be read; {next}");
            BootError::io(BootErrorKind::Loaders, e, text)
        };
        for entry in fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if is_plain(&name) && entry.path().is_file() {
                self.read(&name, &entry.path())?;
            }
        }
        Ok(())
    }

    fn load_known(&mut self, dirs: &[&Path]) -> Result<(), BootError> {
        for name in ARCHES.into_iter().flat_map(loaders_of) {
            let found = dirs.iter().map(|d| d.join(name)).find(|p| p.is_file());
            if let Some(path) = found {
                self.read(name, &path)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, name: &str, path: &Path) -> Result<(), BootError> {
        let shown = path.display();
        let failed = |e| {
            let text = format!("the loader {shown} cannot be read; check its permissions");
            BootError::io(BootErrorKind::Loaders, e, text)
        };
        let len = fs::metadata(path).map_err(failed)?.len();
        if len > limits::LOADER_BYTES_MAX {
            let most = limits::LOADER_BYTES_MAX;
            return Err(BootError::new(
                BootErrorKind::Loaders,
                format!("{shown} has {len} bytes, a loader at most {most}; move it elsewhere"),
            ));
        }
        if self.files.len() >= limits::LOADER_FILES_MAX {
            let most = limits::LOADER_FILES_MAX;
            return Err(BootError::new(
                BootErrorKind::Loaders,
                format!(
                    "more than {most} files beside {shown}; keep only loaders in that directory"
                ),
            ));
        }
        let bytes = fs::read(path).map_err(failed)?;
        self.files.insert(name.to_owned(), bytes.into());
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._+".contains(c);
    !name.starts_with('.') && name.chars().all(good)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_best_loader_that_is_there_is_taken() {
        let both = Assets::of(&[("snponly.efi", b"s"), ("ipxe.efi", b"i")]);
        assert_eq!(both.loader_for(Arch::UefiX64), Some("ipxe.efi"));
        let one = Assets::of(&[("snponly.efi", b"s")]);
        assert_eq!(one.loader_for(Arch::UefiX64), Some("snponly.efi"));
        assert_eq!(one.loader_for(Arch::Bios), None);
        assert_eq!(one.loader_for(Arch::Other(27)), None);
    }

    #[test]
    fn a_missing_loader_is_a_warning_with_a_next_step() {
        let warnings = Assets::of(&[("ipxe.efi", b"i")]).warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("bios") && warnings[0].contains("package `ipxe`"));
    }

    #[test]
    fn a_directory_gives_its_plain_files_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("undionly.kpxe"), b"bios").unwrap();
        fs::write(dir.path().join(".hidden"), b"x").unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        let assets = Assets::load(Some(dir.path())).unwrap();
        assert_eq!(assets.names().collect::<Vec<_>>(), ["undionly.kpxe"]);
        assert_eq!(assets.get("undionly.kpxe").unwrap()[..], *b"bios");
        for bad in ["../undionly.kpxe", "sub/../undionly.kpxe", "", ".hidden"] {
            assert!(assets.get(bad).is_none());
        }
    }

    #[test]
    fn a_missing_directory_is_an_error_that_names_it() {
        let error = Assets::load(Some(Path::new("/nonexistent/loaders"))).unwrap_err();
        assert_eq!(error.kind(), BootErrorKind::Loaders);
        assert!(error.to_string().contains("/nonexistent/loaders"));
    }

    #[test]
    fn a_file_too_large_to_be_a_loader_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = fs::File::create(dir.path().join("golden.raw")).unwrap();
        file.set_len(limits::LOADER_BYTES_MAX + 1).unwrap();
        let error = Assets::load(Some(dir.path())).unwrap_err();
        assert!(error.to_string().contains("golden.raw"));
    }
}
