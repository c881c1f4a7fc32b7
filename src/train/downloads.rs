//! Downloads what a command names on the Hub, once on each host.

use crate::checkpoint::adapter::AdapterConfig;
use crate::comm::{Collective, Op};
use crate::config::{Config, DataFiles, ModelInit};
use crate::error::{Error, Result};
use crate::hub::{self, Repo};
use crate::train::model_folder::ModelFolder;
use crate::train::session::agree_on_files;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const WHAT: &str = "downloading";
/// How often the ranks that wait look whether the others are ready.
const POLL: Duration = Duration::from_millis(100);

/// Models and data files that a command reads; local ones need no download.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    models: Vec<Model>,
    files: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
struct Model {
    path: PathBuf,
    /// Replaces the base model that an adapter names.
    base: Option<PathBuf>,
    weights: bool,
}

impl Wanted {
    /// Returns what a run reads.
    pub fn of_run(config: &Config) -> Self {
        let (model, data) = (&config.model, &config.data);
        let base = config.lora.base_model_name_or_path.as_deref();
        let mut wanted = Wanted::default().model(&model.path, base, model.init == ModelInit::Pretrained);
        if let Some(teacher) = &config.distill.teacher {
            wanted = wanted.model(teacher, None, true);
        }
        let more = [&data.train_target, &data.eval, &data.eval_target].into_iter().filter_map(Option::as_ref);
        let of_sources = data.sources.iter().filter_map(|source| source.train_target.as_ref());
        let more = more.chain(of_sources).chain(data.eval_sets.iter().map(|(_, files)| files));
        more.fold(wanted.data(&data.train), Wanted::data)
    }

    /// Adds a model, or an adapter with its base model, with or without the `weights`.
    #[must_use]
    pub fn model(mut self, path: &Path, base: Option<&Path>, weights: bool) -> Self {
        self.models.push(Model { path: path.to_owned(), base: base.map(Path::to_owned), weights });
        self
    }

    /// Adds data files.
    #[must_use]
    pub fn data(mut self, files: &DataFiles) -> Self {
        self.files.extend(files.paths().iter().cloned());
        self
    }

    /// Adds data files, if there are any.
    #[must_use]
    pub fn data_if(self, files: Option<&DataFiles>) -> Self {
        match files {
            Some(files) => self.data(files),
            None => self,
        }
    }

    /// Whether something may be on the Hub: also the base model of a local adapter.
    fn is_on_hub(&self) -> bool {
        let of_model = |model: &Model| Repo::of_path(&model.path).is_some() || AdapterConfig::is_in(&model.path);
        self.models.iter().any(of_model) || self.files.iter().any(|path| hub::is_data(path))
    }

    fn download(&self) -> Result<()> {
        for Model { path, base, weights } in &self.models {
            hub::model_folder(path, *weights)?;
            // What is wrong with an adapter is reported where it is opened.
            if let Ok(folder) = ModelFolder::open(path, base.as_deref()) {
                hub::model_folder(&folder.named_base, *weights)?;
            }
        }
        self.files.iter().try_for_each(|path| hub::data_files(path).map(drop))
    }
}

/// Downloads what is not in the cache, so that it is found there afterwards. All ranks call it.
///
/// # Errors
/// As [`hub::model_folder`] and [`hub::data_files`], on every rank if one has it.
pub fn fetch(comm: &dyn Collective, wanted: Wanted) -> Result<()> {
    // A local folder of the name may be on some hosts only.
    let mut some = [f64::from(u8::from(wanted.is_on_hub()))];
    if comm.world() > 1 {
        comm.all_reduce_f64(&mut some, Op::Max, WHAT)?;
    }
    if some[0] == 0.0 {
        return Ok(());
    }
    let leads = comm.local_rank() == 0;
    let work = move || {
        if !leads {
            // Not another commit, if the Hub has a newer one by now.
            hub::settle()?;
        }
        wanted.download()
    };
    first_on_each_host(comm, work, || thread::sleep(POLL))
}

/// Runs `work` on the first rank of each host, then on the others, which find its result in the cache. The ranks that
/// wait take part in a collective after each `pause`, so that none times out, however long it takes.
fn first_on_each_host(
    comm: &dyn Collective,
    work: impl Fn() -> Result<()> + Send + Sync + 'static,
    pause: impl Fn(),
) -> Result<()> {
    if comm.world() == 1 {
        return comm.agree(work(), WHAT);
    }
    let (work, leads) = (Arc::new(work), comm.local_rank() == 0);
    let first = Arc::clone(&work);
    let spawn = || thread::Builder::new().name("download".into()).spawn(move || first());
    let first = if leads { Some(spawn()?) } else { None };
    loop {
        let mut busy = [f64::from(u8::from(first.as_ref().is_some_and(|first| !first.is_finished())))];
        comm.all_reduce_f64(&mut busy, Op::Sum, WHAT)?;
        if busy[0] == 0.0 {
            break;
        }
        pause();
    }
    let panicked = |_| Err(Error::other("the thread that downloads has panicked"));
    let first = first.map_or(Ok(()), |first| first.join().unwrap_or_else(panicked));
    agree_on_files(comm, first, leads, WHAT)?;
    let other = if leads { Ok(()) } else { work() };
    agree_on_files(comm, other, true, WHAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Runs `work`, which gets the number of its rank, on two hosts with two ranks each, and `pause` between the
    /// collectives of those that wait.
    fn run(
        work: impl Fn(usize) -> Result<()> + Send + Sync + Clone + 'static,
        pause: impl Fn() + Sync,
    ) -> Vec<Result<()>> {
        thread::scope(|scope| {
            let (group, pause) = (threads::hosts(4, 2, TIMEOUT), &pause);
            let rank = |comm: Arc<dyn Collective>| {
                let (rank, work) = (comm.rank(), work.clone());
                scope.spawn(move || first_on_each_host(comm.as_ref(), move || work(rank), pause))
            };
            let ranks: Vec<_> = group.into_iter().map(rank).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn one_rank_of_each_host_is_first_and_the_others_wait_without_a_timeout() {
        let (order, pauses) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (done, passed) = (Arc::clone(&order), Arc::clone(&pauses));
        let work = move |rank: usize| {
            let since = Instant::now();
            // A pause comes after a collective of all ranks, which thus waits for no download.
            while rank == 2 && passed.load(Ordering::Relaxed) < 40 {
                if since.elapsed() > TIMEOUT {
                    return Err(Error::other("the other ranks wait in a collective"));
                }
                thread::sleep(Duration::from_millis(1));
            }
            done.lock().unwrap().push(rank);
            Ok(())
        };
        let results = run(work, || {
            pauses.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let mut order = order.lock().unwrap().clone();
        order[..2].sort_unstable();
        order[2..].sort_unstable();
        assert_eq!(order, [0, 2, 1, 3]);
    }

    #[test]
    fn an_error_of_a_rank_is_one_on_all() {
        let work = |rank: usize| if rank == 2 { Err(Error::input("org/a: no such model")) } else { Ok(()) };
        let results = run(work, thread::yield_now);
        for result in results {
            let message = result.unwrap_err().to_string();
            assert!(message.starts_with("rank 2 on ") && message.ends_with(": org/a: no such model"), "{message}");
        }
    }

    #[test]
    fn local_paths_need_no_download() {
        let wanted = |model: &str, file: &str| Wanted::default().model(Path::new(model), None, true).data(&file.into());
        assert!(!wanted("models/a/b", "a.jsonl").is_on_hub() && !wanted("src/hub", "a/b/c.jsonl").is_on_hub());
        assert!(wanted("no-such-org/a", "a.jsonl").is_on_hub());
        assert!(wanted("m", "hf://datasets/org/a/b.jsonl").is_on_hub());
    }

    #[cfg(feature = "hub")]
    #[test]
    fn what_a_model_folder_has_is_downloaded() {
        use crate::checkpoint::adapter::{CONFIG, MODEL_CONFIG};
        use crate::train::carried;
        let own = ["config.json", CONFIG, MODEL_CONFIG, crate::config::MODEL_FILE];
        let lacking: Vec<_> = carried::names().chain(own).filter(|name| !hub::is_beside_weights(name)).collect();
        assert!(lacking.is_empty(), "{lacking:?}: add them to hub::files");
    }
}
