//! `shale run`: from options to the command's exit status.
//!
//! ```text
//! resolve ─► check all options ─► row ─► directory, init layer, files ─► mount ─► user, workdir, specification
//!    └── nothing is left behind by a failure up to here ──────────────────────────────────┘
//!                                             ─► runtime ─► wait ─► unmount ─► row: exited  (--rm: delete)
//! ```

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use ufs::Lower;

use super::confined::Root;
use super::process::{InUse, ProcessIdentity, Processes};
use super::runtime::Runtime;
use super::supervise::{self, Signals};
use super::{ContainerConfig, ContainerError, files, init_layer, lowers, names, now_s, remove, runtime};
use crate::bundle::Settings;
use crate::bundle::environment;
use crate::bundle::user::{self, Identity};
use crate::bundle::volume::Source;
use crate::error::StoreError;
use crate::mounts::{Server, Union};
use crate::rootless;
use crate::store::{ContainerId, ContainerRecord, ContainerStatus, Image, Store};

mod options;

pub use self::options::{Options, Plan};

/// How many generated names are tried before giving up: each attempt has thousands.
const NAME_ATTEMPTS_MAX: usize = 16;

/// Where the root file system comes from.
enum Base {
    Image(Box<Image>),
    Directory(PathBuf),
}

/// Runs a container in the foreground; gives the command's status.
pub fn run(store: &Store, options: &Options) -> Result<u8, ContainerError> {
    super::reconcile(store)?;
    let options = &options.without_empty();
    let base = resolve(store, options)?;
    let run_dir = super::run_dir(store);
    let image_config = match &base {
        Base::Image(image) => image.config.config().clone(),
        Base::Directory(_) => None,
    };
    let plan = options.plan(image_config.unwrap_or_default())?;
    let runtime = Runtime::find(options.runtime.as_deref(), &run_dir)?;
    let signals = Signals::block().map_err(|errno| ContainerError::Io {
        action: "block signals for",
        path: PathBuf::from("shale run"),
        source: errno.into(),
    })?;
    let record = insert(store, options, &plan, &base, &runtime, run_dir)?;
    let mut life = Life {
        store,
        directory: store.container_dir(&record.id),
        record,
        plan,
        runtime,
        server: None,
    };
    let outcome = life
        .prepare(options, &base)
        .and_then(|settings| life.execute(&signals, settings));
    life.end(outcome, options)
}

/// The image or directory to run, and the host directory that will be seen, if any.
fn resolve(store: &Store, options: &Options) -> Result<Base, ContainerError> {
    let Some(rootfs) = &options.rootfs else {
        let missing = |error| match error {
            StoreError::NoSuchImage(name) => ContainerError::Usage(format!("No such image: {name}")),
            error => error.into(),
        };
        return Ok(Base::Image(Box::new(
            store.resolve_image(&options.image).map_err(missing)?,
        )));
    };
    let path = rootfs
        .canonicalize()
        .map_err(ContainerError::io("find the root file system", rootfs))?;
    if !path.is_dir() {
        return Err(ContainerError::Usage(format!(
            "--rootfs {}: not a directory",
            rootfs.display()
        )));
    }
    if path.starts_with(
        store
            .root()
            .canonicalize()
            .unwrap_or_else(|_| store.root().to_owned()),
    ) {
        return Err(ContainerError::Usage(format!(
            "--rootfs {}: lies inside the store",
            rootfs.display()
        )));
    }
    Ok(Base::Directory(path))
}

/// Adds the row, under the caller's name or a generated one.
fn insert(
    store: &Store,
    options: &Options,
    plan: &Plan,
    base: &Base,
    runtime: &Runtime,
    run_dir: PathBuf,
) -> Result<ContainerRecord, ContainerError> {
    if let Some(name) = &options.name {
        names::check(name)?;
    }
    let id = ContainerId::random().map_err(ContainerError::io("read", Path::new("/dev/urandom")))?;
    let hostname = plan.hostname.clone().unwrap_or_else(|| id.short().to_owned());
    let config = ContainerConfig {
        hostname,
        runtime: runtime.program().to_owned(),
        run_dir,
        supervisor: ProcessIdentity::own(),
        ..plan.config.clone()
    };
    let (image_id, image_ref, rootfs) = match base {
        Base::Image(image) => (Some(image.id), options.image.clone(), None),
        Base::Directory(path) => (None, path.display().to_string(), Some(path.clone())),
    };
    let mut record = ContainerRecord {
        name: options.name.clone().unwrap_or_else(|| names::generate(&id, 0)),
        id,
        image_id,
        image_ref,
        command: plan.arguments.clone(),
        created_at_s: now_s(),
        status: ContainerStatus::Created,
        exit_code: None,
        pid: None,
        rootfs,
        started_at_s: None,
        finished_at_s: None,
        config_json: config.to_json(),
    };
    for attempt in 1.. {
        match store.containers().insert(&record) {
            Err(StoreError::NameTaken { .. }) if options.name.is_none() && attempt < NAME_ATTEMPTS_MAX => {
                record.name = names::generate(&record.id, attempt);
            }
            other => {
                other?;
                break;
            }
        }
    }
    Ok(record)
}

/// A container while its supervisor works on it.
struct Life<'a> {
    store: &'a Store,
    record: ContainerRecord,
    directory: PathBuf,
    plan: Plan,
    runtime: Runtime,
    server: Option<Server>,
}

impl Life<'_> {
    /// Everything up to a specification on disk.
    fn prepare(&mut self, options: &Options, base: &Base) -> Result<Settings, ContainerError> {
        if let Some(path) = &options.cidfile {
            write_cidfile(path, &self.record.id)?;
        }
        self.make_directories()?;
        let hostname = ContainerConfig::of(&self.record).hostname;
        let all_lowers = lowers(self.store, &self.record)?;
        let hidden = hidden_paths(self.store, base);
        init_layer::build(
            &self.directory.join("init"),
            &all_lowers[1..],
            files::destinations(),
            &hidden,
        )?;
        let files = files::write(&self.directory, &hostname, self.plan.network)?;
        enter_mount_namespace()?;
        self.mount(all_lowers)?;
        let mut settings = self.settings(files, &hostname)?;
        for made in &self.plan.mounts {
            if let Source::Bind(source) = &made.source {
                make_bind_source(Path::new(source))?;
            }
        }
        settings.mounts = self.plan.mounts.clone();
        let specification = crate::bundle::specification(&settings)?;
        let path = self.directory.join("bundle/config.json");
        let text = serde_json::to_vec(&specification).map_err(io::Error::other);
        text.and_then(|text| fs::write(&path, text))
            .map_err(ContainerError::io("write", &path))?;
        Ok(settings)
    }

    fn make_directories(&self) -> Result<(), ContainerError> {
        let make = |path: &Path, mode| {
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(ContainerError::io("create", path))
        };
        make(&self.directory, 0o700)?;
        // The upper directory's attributes are those of the root: everyone may enter.
        for name in ["init", "upper", "work", "merged", "bundle"] {
            make(&self.directory.join(name), 0o755)?;
        }
        Ok(())
    }

    fn mount(&mut self, lowers: Vec<Lower>) -> Result<(), ContainerError> {
        copy_root_attributes(&self.directory.join("init"), &self.directory.join("upper"))?;
        let union = Union {
            lowers,
            upper: Some((self.directory.join("upper"), self.directory.join("work"))),
            // A directory that is in use changes, and what is left below would change with it.
            partial: self.record.rootfs.is_none(),
            squash_overflow: self.plan.rights.in_user_namespace,
            // The command may run as any user.
            allow_other: true,
            // Within the container's rights, and out of others' reach: the store is private.
            no_suid: false,
        };
        let server = Server::start(
            &union,
            &self.directory.join("merged"),
            &self.directory.join("ufs.log"),
        )?;
        let processes = Processes {
            server: server.identity(),
            command: None,
        };
        self.server = Some(server);
        processes
            .save(&self.directory)
            .map_err(ContainerError::io("write to", &self.directory))
    }

    /// What only the mounted root file system can tell: who the user is, and whether the working directory is there.
    fn settings(
        &self,
        files: Vec<(PathBuf, &'static str)>,
        hostname: &str,
    ) -> Result<Settings, ContainerError> {
        let merged = self.directory.join("merged");
        let failed = |action| ContainerError::io(action, &merged);
        let root = Root::open(&merged).map_err(failed("open"))?;
        let passwd = root
            .read_or_empty("/etc/passwd")
            .map_err(failed("read /etc/passwd in"))?;
        let group = root
            .read_or_empty("/etc/group")
            .map_err(failed("read /etc/group in"))?;
        let identity = nameable(user::resolve(&self.plan.config.user, &passwd, &group)?)?;
        let directory = &self.plan.config.working_dir;
        let covered = |destination: &str| Path::new(directory).starts_with(destination);
        if !self.plan.mounts.iter().any(|mount| covered(&mount.destination)) {
            root.make_directories(directory)
                .map_err(|source| ContainerError::Io {
                    action: "make the working directory",
                    path: PathBuf::from(directory),
                    source,
                })?;
        }
        let merged_environment = environment::merge(
            &self.plan.image_env,
            &self.plan.caller_env,
            hostname,
            self.plan.config.tty,
        );
        Ok(Settings {
            id: self.record.id.to_string(),
            root: merged,
            environment: environment::with_home(merged_environment, &identity.home),
            identity,
            hostname: hostname.to_owned(),
            files,
            ..self.plan.settings.clone()
        })
    }

    /// Starts the runtime and waits for it.
    fn execute(&mut self, signals: &Signals, settings: Settings) -> Result<u8, ContainerError> {
        if signals.interrupted() {
            return Err(ContainerError::Usage("interrupted".to_owned()));
        }
        let stdin = self.plan.config.open_stdin;
        let in_use = InUse::lock(&self.directory).map_err(ContainerError::io("lock", &self.directory))?;
        let mut child = self.runtime.run(&self.directory, &settings.id, stdin, &in_use)?;
        let directory = self.directory.clone();
        let stop_signal = self.plan.stop_signal.unwrap_or(Signal::SIGTERM);
        let Self {
            store,
            record,
            server,
            ..
        } = self;
        let started =
            |command: &ProcessIdentity| note_start(store, record, server.as_ref(), &directory, command);
        let status = supervise::wait(signals, &mut child, &directory, stop_signal, started)
            .map_err(ContainerError::io("wait for", self.runtime.program()))?;
        if let Some(said) = self.server.as_mut().and_then(Server::ended) {
            eprintln!(
                "shale: the file system server of container {} ended: {said}",
                self.record.id.short()
            );
        }
        let status = supervise::shell_status(status);
        match runtime::failure(&self.runtime, &self.directory) {
            Some(failure) if status != 0 => Err(failure),
            _ => {
                self.record.started_at_s.get_or_insert_with(now_s);
                Ok(status)
            }
        }
    }

    /// Unmounts, and records or deletes the container.
    fn end(mut self, outcome: Result<u8, ContainerError>, options: &Options) -> Result<u8, ContainerError> {
        self.runtime.delete(self.record.id.as_str());
        if let Some(server) = self.server.take()
            && let Err(error) = server.finish()
        {
            tracing::warn!("container {}: {error}", self.record.name);
        }
        // A failure before the runtime leaves nothing; one to start leaves the container, so that it can be examined.
        let examined = matches!(outcome, Ok(_) | Err(ContainerError::Start { .. }));
        let recorded = if examined && !self.plan.config.auto_remove {
            self.record_end(&outcome)
        } else {
            if !examined
                && let Some(path) = options
                    .cidfile
                    .as_ref()
                    .filter(|path| is_cidfile(path, &self.record.id))
            {
                let _ = fs::remove_file(path);
            }
            remove::delete(self.store, &self.record).map_err(ContainerError::from)
        };
        match (outcome, recorded) {
            (Ok(status), recorded) => recorded.map(|()| status),
            (Err(error), Err(second)) => {
                tracing::warn!("clean up container {}: {second}", self.record.name);
                Err(error)
            }
            (Err(error), Ok(())) => Err(error),
        }
    }

    fn record_end(&mut self, outcome: &Result<u8, ContainerError>) -> Result<(), ContainerError> {
        let mut config = ContainerConfig::of(&self.record);
        config.supervisor = None;
        self.record.config_json = config.to_json();
        self.record.pid = None;
        match outcome {
            Ok(status) => {
                self.record.status = ContainerStatus::Exited;
                self.record.exit_code = Some(i32::from(*status));
                self.record.finished_at_s = Some(now_s());
            }
            Err(error) => {
                self.record.status = ContainerStatus::Created;
                self.record.exit_code = Some(i32::from(error.status()));
            }
        }
        match self.store.containers().update(&self.record) {
            // `rm -f` was faster.
            Err(StoreError::NoSuchContainer(_)) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Refuses a user that the user namespace has no id for, and leaves such groups out: the kernel would refuse all.
fn nameable(mut identity: Identity) -> Result<Identity, ContainerError> {
    for (map, id, kind) in [
        ("uid_map", identity.uid, "user"),
        ("gid_map", identity.gid, "group"),
    ] {
        if !rootless::is_mapped(map, id) {
            return Err(ContainerError::Usage(format!(
                "{kind} id {id} does not exist in your user namespace: install newuidmap (Debian: apt install uidmap) \
                 and grant a range with `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 YOU` as root"
            )));
        }
    }
    identity
        .additional_gids
        .retain(|gid| rootless::is_mapped("gid_map", *gid));
    Ok(identity)
}

/// Writes down that the command runs, and which process it is.
fn note_start(
    store: &Store,
    record: &mut ContainerRecord,
    server: Option<&Server>,
    directory: &Path,
    command: &ProcessIdentity,
) {
    let processes = Processes {
        server: server.and_then(Server::identity),
        command: Some(command.clone()),
    };
    record.status = ContainerStatus::Running;
    record.pid = Some(command.pid);
    record.started_at_s = Some(now_s());
    let noted = processes.save(directory).map_err(|error| error.to_string());
    let noted = noted.and_then(|()| {
        store
            .containers()
            .update(record)
            .map_err(|error| error.to_string())
    });
    if let Err(error) = noted {
        tracing::warn!("note the start of container {}: {error}", record.name);
    }
}

/// The store's directory and the run-time one as the container would see them, when it would.
fn hidden_paths(store: &Store, base: &Base) -> Vec<PathBuf> {
    let host = match base {
        Base::Directory(path) => Some(path.clone()),
        Base::Image(image) => image.base_rootfs.clone(),
    };
    let Some(host) = host.and_then(|path| path.canonicalize().ok()) else {
        return Vec::new();
    };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (root, run) = (real(store.root()), real(&super::run_dir(store)));
    let run = (!run.starts_with(&root)).then_some(run);
    let seen = |path: PathBuf| {
        path.strip_prefix(&host)
            .map(|path| Path::new("/").join(path))
            .ok()
    };
    std::iter::once(root).chain(run).filter_map(seen).collect()
}

/// Mounts of a container are nobody else's business; and when all its processes are gone, so are they.
fn enter_mount_namespace() -> Result<(), ContainerError> {
    let failed = |errno: nix::errno::Errno| ContainerError::Io {
        action: "make a mount namespace for",
        path: PathBuf::from("the container"),
        source: errno.into(),
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SLAVE,
        None::<&str>,
    )
    .map_err(failed)
}

/// The root directory's attributes come from the topmost layer that has one: the upper one, which is new.
fn copy_root_attributes(init: &Path, upper: &Path) -> Result<(), ContainerError> {
    init_layer::copy_attributes(init, upper).map_err(ContainerError::io("set the attributes of", upper))
}

/// Docker makes the missing source of `-v` as a directory.
fn make_bind_source(path: &Path) -> Result<(), ContainerError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(ContainerError::io("create the volume's source", path))
        }
        _ => Ok(()),
    }
}

fn write_cidfile(path: &Path, id: &ContainerId) -> Result<(), ContainerError> {
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(ContainerError::Usage(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            )));
        }
        other => other.map_err(ContainerError::io("create", path))?,
    };
    file.write_all(id.as_str().as_bytes())
        .map_err(ContainerError::io("write", path))
}

/// Whether the file is the one this container wrote.
fn is_cidfile(path: &Path, id: &ContainerId) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text == id.as_str())
}
