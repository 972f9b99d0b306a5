//! The demo's parts against the world: real servers, real processes, real sockets.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wm_analyzer::demo::redis::{Options, PrivateRedis, Search};

/// Waits for a moment, for at most ten seconds.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True while a process of this id is there and not merely waiting to be reaped.
fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

fn connect(redis: &PrivateRedis) -> redis::Connection {
    redis::Client::open(redis.url()).unwrap().get_connection().unwrap()
}

fn ask(connection: &mut redis::Connection, words: &[&str]) -> String {
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(*word);
    });
    command.query(connection).unwrap()
}

#[test]
fn a_private_redis_is_what_it_says_and_dies_with_its_guard() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let mut connection = connect(&redis);
    let info = ask(&mut connection, &["INFO"]);
    assert!(info.contains(&format!("process_id:{}\r", redis.pid().unwrap())), "{info}");
    assert!(info.contains(&format!("_version:{}\r", redis.version())), "{info}");
    assert!(info.contains("maxmemory_policy:noeviction"), "{info}");
    assert!(info.contains("tcp_port:0"), "{info}");
    let (pid, socket) = (redis.pid().unwrap(), redis.socket());
    let dir = socket.parent().unwrap().to_owned();
    assert!(alive(pid) && socket.exists());
    drop(redis);
    assert!(!alive(pid), "the server outlived its guard");
    assert!(!dir.exists(), "its directory outlived its guard");
}

#[test]
fn two_private_redises_share_nothing() {
    let (one, two) = (PrivateRedis::start(Options::default()), PrivateRedis::start(Options::default()));
    let (one, two) = (one.unwrap(), two.unwrap());
    ask(&mut connect(&one), &["SET", "k", "v"]);
    assert_eq!(ask(&mut connect(&two), &["DBSIZE"]), "0");
}

#[test]
fn a_killed_redis_comes_back_at_the_same_address_with_what_it_persisted() {
    for options in [Options::default().persistent(), Options::default().persistent().tcp()] {
        let mut redis = PrivateRedis::start(options).unwrap();
        let (url, first) = (redis.url(), redis.pid().unwrap());
        ask(&mut connect(&redis), &["SET", "kept", "yes"]);
        redis.kill();
        assert!(!alive(first));
        assert_eq!(redis.pid(), None);
        assert!(redis::Client::open(redis.url()).unwrap().get_connection().is_err());
        redis.restart().unwrap();
        assert_eq!(redis.url(), url);
        assert_ne!(redis.pid(), Some(first));
        assert_eq!(ask(&mut connect(&redis), &["GET", "kept"]), "yes");
    }
}

#[test]
fn a_frozen_redis_answers_nothing_until_it_is_thawed() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let mut connection = connect(&redis);
    connection.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    redis.freeze();
    assert!(redis::cmd("PING").query::<String>(&mut connection).is_err());
    redis.thaw();
    assert_eq!(ask(&mut connect(&redis), &["PING"]), "PONG");
}

#[test]
fn a_directive_that_redis_refuses_is_told_in_its_own_words_at_once() {
    let began = Instant::now();
    let error = PrivateRedis::start(Options::default().set("maxmemory", "nonsense")).unwrap_err().to_string();
    assert!(error.contains("maxmemory") && error.contains("did not come up"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "an early end was waited out");
}

/// Not a test of its own: the process that the next test kills. It starts a server, says its pid, and waits.
#[test]
#[ignore = "a child of another test"]
fn hold_a_private_redis_until_killed() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    println!("\nheld {} {}", redis.pid().unwrap(), redis.socket().display());
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_private_redis_dies_and_cleans_up_when_its_process_is_killed() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["hold_a_private_redis_until_killed", "--ignored", "--exact", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held = lines.find_map(|line| line.unwrap().strip_prefix("held ").map(str::to_owned)).unwrap();
    let (pid, socket) = held.split_once(' ').unwrap();
    let pid: u32 = pid.parse().unwrap();
    assert!(alive(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("the server's end", || !alive(pid));
    let dir = Path::new(socket).parent().unwrap();
    wait_until("its directory's removal", || !dir.exists());
}

/// A `PATH` with everything of this machine but redis.
fn path_without_redis(dir: &Path) -> std::ffi::OsString {
    for tool in ["apt-get", "dpkg-deb"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|at| at.join(tool))
            .find(|at| at.exists());
        if let Some(found) = found {
            std::os::unix::fs::symlink(found, dir.join(tool)).unwrap();
        }
    }
    dir.as_os_str().to_owned()
}

#[test]
fn without_apt_the_failure_names_what_was_tried_and_the_way_out() {
    let empty = tempfile::tempdir().unwrap();
    let search = Search { path: empty.path().into(), caches: vec![empty.path().join("cache")] };
    let error = search.find(&mut |_| {}).unwrap_err().to_string();
    for needle in
        ["redis-server is not on PATH", "apt-get is not on PATH", "sudo apt-get install redis-server"]
    {
        assert!(error.contains(needle), "{error}");
    }
}

/// Needs Debian's package archive (a package registry), and passes over where there is no apt.
#[test]
fn where_there_is_no_redis_debians_own_is_unpacked_once_by_however_many_ask() {
    let tools = tempfile::tempdir().unwrap();
    let path = path_without_redis(tools.path());
    if !tools.path().join("apt-get").exists() {
        return;
    }
    let unusable = tools.path().join("apt-get").join("no-directory");
    let search = Search { path, caches: vec![unusable, tools.path().join("cache")] };
    let find = || {
        let mut said = Vec::new();
        let server = search.find(&mut |line| said.push(line.to_owned()));
        (server.unwrap(), said)
    };
    let ((one, first), (two, second)) = std::thread::scope(|scope| {
        let other = scope.spawn(find);
        (find(), other.join().unwrap())
    });
    let unpacked = first.iter().chain(&second).filter(|line| line.contains("unpacking Debian's own")).count();
    assert_eq!(unpacked, 1, "{first:?} {second:?}");
    assert_eq!(one.program(), two.program());
    assert!(one.program().starts_with(tools.path()), "{one:?}");
    let redis = PrivateRedis::start_server(one, Options::default()).unwrap();
    assert_eq!(ask(&mut connect(&redis), &["EVAL", "return cjson.encode({1})", "0"]), "[1]");
    assert_eq!(find().1, Vec::<String>::new(), "a second search had to unpack again");
    let left: Vec<_> =
        std::fs::read_dir(tools.path().join("cache")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "more than the lock and one server is left: {left:?}");
}
