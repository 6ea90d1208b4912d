//! Entries on disk, in buckets: each bucket is small enough to be read at once, whatever the number
//! of entries.
//!
//! All buckets share one file without a name, so that nothing is left behind and few files are
//! open. A bucket keeps its entries in the order in which they came. In memory are a block of each
//! bucket and the places of the blocks in the file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

/// The bytes of a block in the file.
const BLOCK: usize = 2_048;

/// See the module's head.
#[derive(Debug)]
pub(in crate::verify) struct Spill {
    folder: PathBuf,
    file: File,
    buckets: Vec<Bucket>,
    /// The number of the next block.
    next: u32,
    entries: u64,
}

#[derive(Debug, Default)]
struct Bucket {
    /// The bytes behind the last block that is written.
    tail: Vec<u8>,
    /// The numbers of the blocks in the file.
    blocks: Vec<u32>,
}

impl Spill {
    /// An empty one in this folder.
    ///
    /// # Errors
    /// No file can be made there.
    pub(in crate::verify) fn new(folder: &Path, buckets: usize) -> Result<Spill> {
        let file = tempfile::tempfile_in(folder).map_err(|error| failed(folder, error))?;
        Ok(Spill {
            folder: folder.to_owned(),
            file,
            buckets: (0..buckets.max(1)).map(|_| Bucket::default()).collect(),
            next: 0,
            entries: 0,
        })
    }

    /// Appends an entry to the bucket that a number chooses. `write` appends the entry's bytes.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(in crate::verify) fn push(
        &mut self,
        number: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<()> {
        let at = (number % self.buckets.len() as u64) as usize;
        let Some(bucket) = self.buckets.get_mut(at) else {
            return Ok(());
        };
        write(&mut bucket.tail);
        self.entries += 1;
        while let Some(block) = bucket.tail.first_chunk::<BLOCK>() {
            let written = self.file.write_all_at(block, place(self.next));
            written.map_err(|error| failed(&self.folder, error))?;
            bucket.blocks.push(self.next);
            bucket.tail.drain(..BLOCK);
            self.next += 1;
        }
        Ok(())
    }

    /// How many entries there are.
    pub(in crate::verify) fn entries(&self) -> u64 {
        self.entries
    }

    /// How many buckets there are.
    pub(in crate::verify) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The bytes of the entries of a bucket, in the order in which they came.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::verify) fn read(&self, bucket: usize) -> Result<Vec<u8>> {
        let Some(bucket) = self.buckets.get(bucket) else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; bucket.blocks.len() * BLOCK];
        for (block, number) in bytes.chunks_exact_mut(BLOCK).zip(&bucket.blocks) {
            let read = self.file.read_exact_at(block, place(*number));
            read.map_err(|error| failed(&self.folder, error))?;
        }
        bytes.extend_from_slice(&bucket.tail);
        Ok(bytes)
    }
}

fn place(block: u32) -> u64 {
    u64::from(block) * BLOCK as u64
}

fn failed(folder: &Path, error: std::io::Error) -> Error {
    let message = format!("a temporary file in {} failed", folder.display());
    Error::fatal(Code::Lifecycle, message)
        .with_source(error)
        .with_hint(
            "ten million events need 3 GB there: name another folder with --temp-dir, or compare \
             less at once with --since or --from-id",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_returns_its_entries_in_order_and_no_file_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut spill = Spill::new(folder.path(), 7).expect("a file");
        let mut expected = vec![Vec::new(); 7];
        for number in 0..20_000_u64 {
            let entry = number.to_le_bytes().repeat(1 + (number % 40) as usize);
            expected[(number % 7) as usize].extend_from_slice(&entry);
            let pushed = spill.push(number, |bytes| bytes.extend_from_slice(&entry));
            pushed.expect("it is written");
        }
        assert_eq!((spill.entries(), spill.buckets()), (20_000, 7));
        for (at, expected) in expected.iter().enumerate() {
            assert_eq!(&spill.read(at).expect("it is read"), expected);
        }
        let names = std::fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 0);
    }

    #[test]
    fn a_folder_that_takes_no_file_is_named() {
        let error = Spill::new(Path::new("/proc/nowhere"), 1).expect_err("no such folder");
        assert!(error.message().contains("/proc/nowhere"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--temp-dir")));
    }
}
