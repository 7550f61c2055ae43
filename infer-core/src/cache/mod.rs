//! Compiled models, kept in the target directory: compiling one again takes a look at its files.
//!
//! Three kinds of file lie in the folder, each named by a hash:
//!
//! - `.plan`: a plan's bytes, named by its own content;
//! - `.entry`: a [`Summary`] and the plan it belongs to, named by what went in: the compiler, the options, and the contents
//!   of the model, its external data and its tactics;
//! - `.seen`: the sizes and modification times under which a model's files were last found to have the contents of an
//!   entry, named by the compiler, the options and the model's path. While they hold, nothing large is read.
//!
//! Beside them lies `lock`, an empty file. Every file is written under a temporary name and renamed, so builds may share the folder at the same time; files are
//! removed only under a lock that no other build shares meanwhile. Text files end in a checksum; a damaged file counts as
//! absent. Only successes are kept.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};

use crate::compile::{self, Compiled, Summary};
use crate::diagnostic::Diagnostic;
use crate::options::Options;

mod text;

use text::{Entry, Seen, Source};

/// How many plans of one model are kept: say two precisions, and one to change between.
const PLANS_PER_MODEL: usize = 3;

/// A plan that was asked for this recently stays whatever else is kept: a build may be about to assemble it.
const IN_USE: Duration = Duration::from_secs(600);

/// A file that was modified this recently may be modified again without its time showing it.
const SETTLED: Duration = Duration::from_secs(2);

/// The modification time of every plan, in seconds since 1970: content alone makes a plan, and where `include_bytes!`
/// embeds it, a time after the build began would have cargo build again.
const PLAN_TIME: Duration = Duration::from_secs(946_684_800);

/// Temporary files this old were left behind by a build that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A plan as it lies in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPlan {
    /// The file with its bytes, named by their hash.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// A compiled model as it lies in the cache.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The file with the plan's bytes, named by their hash.
    pub plan: PathBuf,
    /// The plan's size.
    pub plan_bytes: u64,
    /// The plan's SHA-256, in hexadecimal.
    pub plan_sha256: String,
    /// The plan for GPUs, where there is one.
    pub cuda_plan: Option<StoredPlan>,
    /// What the plans are.
    pub summary: Summary,
    /// The files that the plan was made from: the model first, then external data, then tactics.
    pub sources: Vec<PathBuf>,
}

/// A folder of compiled models.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache of the target directory that `out_dir`, the `OUT_DIR` of some build script, lies in. All profiles and
    /// targets share it, and `cargo clean` removes it.
    pub fn near(out_dir: &Path) -> Self {
        let target = out_dir.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
        Cache::at(target.unwrap_or(out_dir).join("infer-embed"))
    }

    /// The cache in `folder`, which need not exist.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Cache { folder: folder.into() }
    }

    /// Compiles a model, or finds it compiled. With `INFER_LOG=time` the time it took goes to standard error.
    ///
    /// # Errors
    ///
    /// Those of [`compile::compile`], and one if the cache cannot be written.
    pub fn compile(&self, options: &Options) -> Result<Stored, Vec<Diagnostic>> {
        self.compile_with(options, compile::compile)
    }

    fn compile_with(
        &self,
        options: &Options,
        compile: impl FnOnce(&Options) -> Result<Compiled, Vec<Diagnostic>>,
    ) -> Result<Stored, Vec<Diagnostic>> {
        let start = Instant::now();
        if let Some(stored) = self.look_up(options) {
            log_time(options, start.elapsed(), "cached", &[]);
            return Ok(stored);
        }
        let began = SystemTime::now();
        let compiled = compile(options)?;
        let timings = compiled.timings.clone();
        let stored = self.store(options, compiled, began).map_err(|error| {
            let folder = self.folder.display();
            vec![Diagnostic::model(format!("cannot write to the plan cache `{folder}`: {error}"))]
        })?;
        log_time(options, start.elapsed(), "compiled", &timings);
        Ok(stored)
    }

    /// The model as it was compiled before, if its files are what they were.
    fn look_up(&self, options: &Options) -> Option<Stored> {
        let _shared = self.lock_file().ok().filter(|file| file.lock_shared().is_ok());
        let seen_path = self.seen_path(options);
        let seen = read_text(&seen_path).and_then(|text| Seen::parse(&text));
        if let Some(seen) = &seen
            && seen.sources.iter().all(Source::is_unchanged)
            && let Some(entry) = self.entry(&seen.entry)
            && self.has_plans(&entry)
        {
            return Some(self.found(&seen.entry, entry, seen.paths()));
        }
        // Which external files belong to the model is known from last time; the guess that there are none finds
        // models without any under a new path.
        let own =
            || [Some(&options.model), options.tactics.as_ref()].into_iter().flatten().cloned().collect();
        let paths = seen.map_or_else(own, |seen| seen.paths());
        let checked = SystemTime::now();
        let hashes = paths.iter().map(|path| hash_file(path)).collect::<io::Result<Vec<_>>>().ok()?;
        let key = entry_key(options, &paths, &hashes);
        let entry = self.entry(&key)?;
        if !self.has_plans(&entry) {
            return None;
        }
        // Failing to remember costs the next build a hash of the files.
        let _ = self.remember(options, &key, &paths, checked);
        Some(self.found(&key, entry, paths))
    }

    fn found(&self, key: &str, entry: Entry, sources: Vec<PathBuf>) -> Stored {
        // The entry's time says when it was last of use; failing to set it at worst removes the plan early.
        if let Ok(file) = File::options().append(true).open(self.folder.join(format!("{key}.entry"))) {
            let _ = file.set_modified(SystemTime::now());
        }
        self.stored(entry, sources)
    }

    fn stored(&self, entry: Entry, sources: Vec<PathBuf>) -> Stored {
        Stored {
            plan: self.plan_path(&entry.plan.1),
            plan_bytes: entry.plan.0,
            plan_sha256: entry.plan.1,
            cuda_plan: entry.cuda_plan.map(|(bytes, sha256)| {
                let path = self.plan_path(&sha256);
                StoredPlan { path, bytes, sha256 }
            }),
            summary: entry.summary,
            sources,
        }
    }

    fn store(&self, options: &Options, compiled: Compiled, began: SystemTime) -> io::Result<Stored> {
        fs::create_dir_all(&self.folder)?;
        // Where the file system has no locks, nothing is removed either.
        let shared = self.lock_file().ok().filter(|file| file.lock_shared().is_ok());
        let Compiled { plan, cuda_plan, summary, sources, .. } = compiled;
        let known = |plan: &Vec<u8>| (plan.len() as u64, hex(&Sha256::digest(plan)));
        let entry = Entry {
            model: options.model.clone(),
            plan: known(&plan),
            cuda_plan: cuda_plan.as_ref().map(known),
            summary,
        };
        let hashes = sources.iter().map(|path| hash_file(path)).collect::<io::Result<Vec<_>>>()?;
        // A model that was replaced while it was compiled: the plan is of the former one, and no entry says otherwise.
        let is_current = hashes.first() == Some(&entry.summary.model_sha256);
        if is_current {
            let key = entry_key(options, &sources, &hashes);
            self.write(&self.folder.join(format!("{key}.entry")), entry.text().as_bytes(), None)?;
            self.remember(options, &key, &sources, began)?;
        }
        for (known, plan) in entry.plans().zip([Some(plan), cuda_plan].into_iter().flatten()) {
            let path = self.plan_path(&known.1);
            if !is_plan(&path, known) {
                self.write(&path, &plan, Some(SystemTime::UNIX_EPOCH + PLAN_TIME))?;
            }
        }
        drop(shared);
        let alone = self.lock_file().ok().filter(|file| file.try_lock().is_ok());
        if is_current && alone.is_some() {
            // What cannot be removed now can be next time.
            let _ = self.remove_unused();
        }
        Ok(self.stored(entry, sources))
    }

    /// Writes down how the files of the entry `key` look, which were read after the time `checked`.
    fn remember(
        &self,
        options: &Options,
        key: &str,
        paths: &[PathBuf],
        checked: SystemTime,
    ) -> io::Result<()> {
        let mut sources = paths.iter().map(|path| Source::look(path)).collect::<io::Result<Vec<_>>>()?;
        for source in &mut sources {
            if source.modified + SETTLED > checked {
                // A time that no file has: the content decides.
                source.modified = SystemTime::UNIX_EPOCH;
            }
        }
        let seen = Seen { entry: key.to_owned(), sources };
        self.write(&self.seen_path(options), seen.text().as_bytes(), None)
    }

    /// Removes all but the last plans of each model, and what nothing refers to.
    fn remove_unused(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        let mut others = Vec::new();
        for file in fs::read_dir(&self.folder)? {
            let path = file?.path();
            let age = age(&path);
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("entry") => match read_text(&path).and_then(|text| Entry::parse(&text)) {
                    Some(entry) => entries.push((age, entry, path)),
                    None => others.push((age, path)),
                },
                Some("plan" | "seen" | "temporary") => others.push((age, path)),
                _ => {}
            }
        }
        entries.sort_by_key(|(age, ..)| *age);
        let mut kept = std::collections::HashSet::new();
        let mut plans: std::collections::HashMap<PathBuf, usize> = std::collections::HashMap::new();
        for (age, entry, path) in entries {
            let count = plans.entry(entry.model.clone()).or_default();
            *count += 1;
            if *count <= PLANS_PER_MODEL || age < IN_USE {
                kept.extend(entry.plans().map(|plan| self.plan_path(&plan.1)));
                kept.insert(path);
            } else {
                fs::remove_file(path)?;
            }
        }
        for (age, path) in others {
            let unused = match path.extension().and_then(|extension| extension.to_str()) {
                Some("temporary") => age > ABANDONED,
                Some("seen") => {
                    let seen = read_text(&path).and_then(|text| Seen::parse(&text));
                    age > IN_USE
                        && seen.is_none_or(|seen| {
                            !kept.contains(&self.folder.join(format!("{}.entry", seen.entry)))
                        })
                }
                Some("plan") => !kept.contains(&path),
                _ => age > IN_USE,
            };
            if unused {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The file whose lock builds share while they read and write, and one holds alone while it removes.
    fn lock_file(&self) -> io::Result<File> {
        File::options().create(true).append(true).open(self.folder.join("lock"))
    }

    fn entry(&self, key: &str) -> Option<Entry> {
        Entry::parse(&read_text(&self.folder.join(format!("{key}.entry")))?)
    }

    fn has_plans(&self, entry: &Entry) -> bool {
        entry.plans().all(|plan| is_plan(&self.plan_path(&plan.1), plan))
    }

    fn plan_path(&self, sha256: &str) -> PathBuf {
        self.folder.join(format!("{}.plan", sha256.get(..32).unwrap_or(sha256)))
    }

    fn seen_path(&self, options: &Options) -> PathBuf {
        let mut key = request_key(options);
        for path in [Some(&options.model), options.tactics.as_ref()].into_iter().flatten() {
            update(&mut key, path.as_os_str().as_encoded_bytes());
        }
        self.folder.join(format!("{}.seen", short_hex(key)))
    }

    /// Writes a file, with the time `modified` if given, such that whoever opens it finds all of it.
    fn write(&self, path: &Path, bytes: &[u8], modified: Option<SystemTime>) -> io::Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{}-{count}.temporary", std::process::id()));
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            modified.map_or(Ok(()), |time| file.set_modified(time))?;
            drop(file);
            fs::rename(&temporary, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Whether `path` holds the plan of that size and hash: by its size and time, or else by its content.
fn is_plan(path: &Path, (bytes, sha256): &(u64, String)) -> bool {
    let time = SystemTime::UNIX_EPOCH + PLAN_TIME;
    let Ok(metadata) = fs::metadata(path) else { return false };
    if metadata.len() != *bytes {
        return false;
    }
    if metadata.modified().is_ok_and(|modified| modified == time) {
        return true;
    }
    // As after a copy that does not keep times. Where setting it fails, the next build reads the file again.
    let is_right = hash_file(path).is_ok_and(|hash| hash == *sha256);
    if is_right && let Ok(file) = File::options().append(true).open(path) {
        let _ = file.set_modified(time);
    }
    is_right
}

fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default()
}

fn read_text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// What every key depends on: the compiler and the options.
fn request_key(options: &Options) -> Sha256 {
    let mut key = Sha256::new();
    for part in [
        env!("CARGO_PKG_VERSION"),
        env!("INFER_CORE_SOURCES"),
        options.precision.name(),
        options.backends.name(),
    ] {
        update(&mut key, part.as_bytes());
    }
    update(&mut key, &[u8::from(options.winograd), u8::from(cfg!(feature = "cuda"))]);
    update(&mut key, &options.least_gpu_work.to_le_bytes());
    let mut dims = options.dims.clone();
    dims.sort();
    for (symbol, extent) in dims {
        update(&mut key, symbol.as_bytes());
        update(&mut key, &extent.to_le_bytes());
    }
    update(&mut key, &[]);
    // Notes name the file.
    let tactics = options.tactics.as_ref().and_then(|path| path.file_name());
    update(&mut key, tactics.unwrap_or_default().as_encoded_bytes());
    key
}

/// The name of the entry for files of these contents. External files are known by their place beside the model.
fn entry_key(options: &Options, paths: &[PathBuf], hashes: &[String]) -> String {
    let mut key = request_key(options);
    let folder = options.model.parent().unwrap_or(Path::new(""));
    for (index, (path, hash)) in paths.iter().zip(hashes).enumerate() {
        if index > 0 {
            update(&mut key, path.strip_prefix(folder).unwrap_or(path).as_os_str().as_encoded_bytes());
        }
        update(&mut key, hash.as_bytes());
    }
    short_hex(key)
}

/// Adds one part, in such a way that no two lists of parts are alike.
fn update(key: &mut Sha256, part: &[u8]) {
    key.update((part.len() as u64).to_le_bytes());
    key.update(part);
}

fn short_hex(key: Sha256) -> String {
    hex(&key.finalize()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Where `INFER_LOG=time` asks for it, or an unoptimised compiler took long, says how long a model took.
fn log_time(options: &Options, total: Duration, how: &str, stages: &[(&'static str, f64)]) {
    let model = options.model.file_name().unwrap_or_default().to_string_lossy();
    let total = total.as_secs_f64();
    let wanted = std::env::var_os("INFER_LOG").is_some_and(|value| value == "time");
    if wanted {
        let stages: String =
            stages.iter().map(|(name, seconds)| format!(", {name} {seconds:.3} s")).collect();
        eprintln!("infer-embed: {model}: {total:.3} s, {how}{stages}");
    }
    let unoptimised = matches!(env!("INFER_CORE_OPT_LEVEL"), "0" | "1");
    if unoptimised && (wanted || total > 10.0) {
        eprintln!(
            "infer-embed: the model compiler is not optimised; it is several times faster with\n\
             [profile.dev.build-override]\nopt-level = 3\nin the workspace's Cargo.toml (and the same for release)"
        );
    }
}

#[cfg(test)]
mod tests;
