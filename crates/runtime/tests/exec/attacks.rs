//! What a container tries against a process that enters it.

use super::*;

/// Goes through /proc over and over: takes any descriptor and any program file of anybody else that it can, and tries
/// to write to the file.
const ATTACKER: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int main(void) {
    char path[600], to[600];
    struct stat it, ours;
    printf("up\n");
    fflush(stdout);
    for (;;) {
        DIR *proc = opendir("/proc");
        struct dirent *p, *f;
        while ((p = readdir(proc))) {
            int pid = atoi(p->d_name);
            if (pid <= 1) continue;
            snprintf(path, sizeof path, "/proc/%d/exe", pid);
            ssize_t n = readlink(path, to, sizeof to - 1);
            if (n > 0) {
                to[n] = 0;
                if (!strstr(to, "busybox")) printf("exe %s\n", to);
                int fd = open(path, O_WRONLY | O_APPEND);
                /* Our own program can be written to once the last that runs it is gone, which it may be by now. */
                int own = fd >= 0 && !fstat(fd, &it) && !stat("/bin/busybox", &ours)
                    && it.st_dev == ours.st_dev && it.st_ino == ours.st_ino;
                if (fd >= 0 && !own) printf("WRITTEN %s %zd\n", to, write(fd, "x", 1));
                if (fd >= 0) close(fd);
                else if (!strstr(to, "busybox")) printf("refused %d\n", errno);
            }
            snprintf(path, sizeof path, "/proc/%d/fd", pid);
            DIR *fds = opendir(path);
            if (fds) {
                while ((f = readdir(fds))) {
                    if (f->d_name[0] == '.') continue;
                    snprintf(path, sizeof path, "/proc/%d/fd/%s", pid, f->d_name);
                    /* Taken first, so that it cannot change or go. */
                    int fd = open(path, O_PATH);
                    if (fd < 0) continue;
                    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
                    n = readlink(path, to, sizeof to - 1);
                    to[n > 0 ? n : 0] = 0;
                    /* What our own root has under that very name is no news. */
                    int own = !fstat(fd, &it) && !stat(to, &ours) && it.st_dev == ours.st_dev && it.st_ino == ours.st_ino;
                    printf("fd %s\n", own ? "own" : to);
                    close(fd);
                }
                closedir(fds);
            }
        }
        closedir(proc);
        fflush(stdout);
    }
}
"#;

#[test]
fn a_container_can_neither_write_our_binary_nor_take_a_descriptor_of_ours() {
    let binary = env!("CARGO_BIN_EXE_runtime-testbin");
    let before = fs::read(binary).unwrap();
    let mut seen = BTreeMap::<String, u32>::new();
    for with_ptrace in [false, true] {
        let host = Host::new();
        let mut i = busybox(&host, "attacker", "exec /attack");
        shimhost::compile(ATTACKER, &host.dir.path().join("rootfs/attack"));
        fs::remove_file(host.dir.path().join("rootfs/attack.c")).unwrap();
        i.spec.logging.max_size = 64 << 20;
        if with_ptrace {
            i.spec.cap_add = vec!["SYS_PTRACE".to_owned()];
        }
        host.start(&i);
        host.until(&i, "it is at it", |_| !host.log(&i).is_empty());
        for _ in 0..100 {
            let session = host.runtime.exec(&i.id, &spec(&["/bin/true"]), None).unwrap();
            assert_eq!(session.wait().unwrap().code, 0);
        }
        host.runtime.stop(&i.id, "KILL", LONG).unwrap();
        for (_, line) in host.log(&i) {
            assert!(!line.starts_with("WRITTEN"), "{line}");
            if let Some(target) = line.strip_prefix("fd ") {
                let harmless = target.starts_with("pipe:") || ["/dev/null\n", "own\n"].contains(&target);
                assert!(harmless, "a descriptor of ours: {line}");
            }
            if let Some(errno) = line.strip_prefix("refused ") {
                let errno: i32 = errno.trim().parse().unwrap();
                assert!(
                    [
                        libc::EROFS,
                        libc::ETXTBSY,
                        libc::EACCES,
                        libc::ENOENT,
                        libc::ESRCH
                    ]
                    .contains(&errno),
                    "{errno}"
                );
            }
            let kind = line.split(':').next().unwrap().trim().to_owned();
            *seen.entry(kind).or_default() += 1;
        }
    }
    println!("seen from inside: {seen:?}");
    assert!(fs::read(binary).unwrap() == before);
}

#[test]
fn our_binary_cannot_be_run_and_no_directory_of_the_host_be_stood_in() {
    let host = Host::new();
    let i = started(&host, "tricks");
    let root = host.dir.path().join("rootfs");
    std::os::unix::fs::symlink("/proc/self/exe", root.join("bin/evil")).unwrap();
    fs::write(root.join("bin/script"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(
        root.join("bin/script"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    for args in [
        &["/proc/self/exe", "shim"][..],
        &["/bin/evil", "agent"],
        &["/bin/script"],
    ] {
        let end = host
            .runtime
            .exec(&i.id, &spec(args), None)
            .unwrap()
            .wait()
            .unwrap();
        assert!([126, 127].contains(&end.code), "{args:?}: {end:?}");
    }
    for number in 0..24 {
        for path in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/self/fd/{number}/../.."),
        ] {
            let mut asked = sh("pwd; ls");
            asked.working_dir = Some(path.clone());
            let end = host.runtime.exec(&i.id, &asked, None).unwrap().wait().unwrap();
            assert_eq!(end.code, 125, "{path}: {end:?}");
            assert!(end.error.unwrap().contains("working_dir"), "{path}");
        }
    }
}
