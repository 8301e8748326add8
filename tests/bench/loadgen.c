/* loadgen: an HTTP/1.1 keep-alive load generator for LLM gateways.
 *
 * One thread, epoll.  Sends one POST body over and over on N connections and
 * measures each answer: time to first byte, time to last byte and, where the
 * answer's ids carry the upstream's write time (see mockup.c), the transit
 * time of every streamed event.  Closed loop by default; --rate R makes it an
 * open loop whose latencies count from the moment each request was due.
 *
 * Build: cc -O2 -o loadgen loadgen.c
 * Usage: loadgen --port N --path /v1/chat/completions --body FILE
 *                [--conns 50] [--seconds 5] [--warmup 1] [--rate R]
 *                [--header 'Name: value']... [--transit 1] [--once 1]
 * --once 1: every connection sends one request only (a memory test with many
 * open streams).  Prints one JSON object; microseconds everywhere.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct { int fd, busy, state, chunked, status, close_after, gone; uint64_t start, first; size_t outoff; long long left; char h[8192]; size_t hn; char line[64]; int ln; char tail[40]; int tn; } C;
enum { HEAD, BODY, CSIZE, CDATA, CCRLF, CTRAIL };
typedef struct { uint32_t *v; size_t n, cap; } H;
static H lat, ttfb, transit; static int ep, port, want_transit, once; static char *req; static size_t reqn;
static uint64_t t_measure, t_end; static long long done, ok, errs, non200, bytes, events, reconn; static int nidle; static C **idle; static uint64_t next_due; static double rate; static long long issued;

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void add(H *h, uint64_t ns) { if (h->n == h->cap) { h->cap = h->cap ? h->cap * 2 : 65536; h->v = realloc(h->v, h->cap * 4); } h->v[h->n++] = ns / 100 > UINT32_MAX ? UINT32_MAX : ns / 100; }
static int cmp(const void *a, const void *b) { uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b; return x < y ? -1 : x > y; }
static double pct(H *h, double p) { if (!h->n) return 0; size_t i = p * (h->n - 1); return h->v[i] / 10.0; }
static void dial(C *c) {
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}; int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&sa, sizeof sa)) { close(c->fd); c->fd = -1; return; }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}
static void redial(C *c) { if (c->fd >= 0) close(c->fd); reconn++; dial(c); }
static void fire(C *c, uint64_t start) {
    if (c->fd < 0) dial(c);
    if (c->fd < 0) { errs++; c->gone = 1; return; }
    c->busy = 1; c->state = HEAD; c->hn = 0; c->first = 0; c->tn = 0; c->start = start; issued++;
    size_t off = 0; while (off < reqn) { ssize_t w = send(c->fd, req + off, reqn - off, MSG_NOSIGNAL); if (w <= 0) { errs++; c->busy = 0; redial(c); return; } off += w; }
}
static void finish(C *c, uint64_t t) {
    c->busy = 0; if (c->status == 200) ok++; /* the whole run, warm-up and tail too */
    if (t >= t_measure && t <= t_end) { done++; if (c->status != 200) non200++; add(&lat, t - c->start); add(&ttfb, c->first - c->start); }
    if (c->close_after) redial(c);
    if (once) { c->gone = 1; return; }
    if (t >= t_end) return;
    if (rate > 0) idle[nidle++] = c; else fire(c, now());
}
static void scan(C *c, const char *p, size_t n, uint64_t t) { /* ids with a time */
    if (!want_transit) return;
    char buf[40 + 65536]; memcpy(buf, c->tail, c->tn); size_t m = n > 65536 ? 65536 : n; memcpy(buf + c->tn, p, m); size_t tot = c->tn + m; char *q = buf, *e = buf + tot;
    while ((q = memmem(q, e - q, "chatcmpl-", 9)) && e - q >= 29) { uint64_t v = 0; int i; for (i = 9; i < 29 && q[i] >= '0' && q[i] <= '9'; i++) v = v * 10 + (q[i] - '0'); if (i == 29 && v) { events++; if (t >= t_measure && t <= t_end && t > v) add(&transit, t - v); } q += 29; }
    size_t keep = q ? (size_t)(e - q) : (tot < 8 ? tot : 8); if (keep > 39) keep = 39; memcpy(c->tail, e - keep, keep); c->tn = keep;
}
static int feed(C *c, char *p, size_t n, uint64_t t) { /* 1 when the answer is complete */
    while (n) switch (c->state) {
        case HEAD: {
            size_t old = c->hn, m = n < sizeof c->h - 1 - c->hn ? n : sizeof c->h - 1 - c->hn; if (!m) return -1;
            memcpy(c->h + c->hn, p, m); c->hn += m; c->h[c->hn] = 0; char *e = strstr(c->h, "\r\n\r\n"); if (!e) { p += m; n -= m; break; }
            size_t used = e + 4 - c->h - old; p += used; n -= used; e[2] = 0; c->status = atoi(c->h + 9);
            char *cl = strcasestr(c->h, "\r\ncontent-length:"); c->chunked = !!strcasestr(c->h, "\r\ntransfer-encoding: chunked"); c->close_after = !!strcasestr(c->h, "\r\nconnection: close");
            if (c->chunked) { c->state = CSIZE; c->ln = 0; } else { c->state = BODY; c->left = cl ? atoll(cl + 17) : (1ll << 60); if (!c->left) return 1; }
            break; }
        case BODY: { size_t m = (long long)n < c->left ? n : (size_t)c->left; scan(c, p, m, t); c->left -= m; p += m; n -= m; if (!c->left) return 1; break; }
        case CSIZE: { char ch = *p++; n--; if (ch == '\n') { c->line[c->ln] = 0; c->left = strtoll(c->line, 0, 16); c->ln = 0; c->state = c->left ? CDATA : CTRAIL; } else if (c->ln < 60) c->line[c->ln++] = ch; break; }
        case CDATA: { size_t m = (long long)n < c->left ? n : (size_t)c->left; scan(c, p, m, t); c->left -= m; p += m; n -= m; if (!c->left) { c->state = CCRLF; c->ln = 0; } break; }
        case CCRLF: { char ch = *p++; n--; if (ch == '\n') c->state = CSIZE; break; }
        case CTRAIL: { char ch = *p++; n--; if (ch == '\n') { if (c->ln == 0) return 1; c->ln = 0; } else if (ch != '\r') c->ln++; break; }
    }
    return 0;
}
int main(int argc, char **argv) {
    const char *path = "/v1/chat/completions", *bodyf = 0; int n = 50; double secs = 5, warm = 1; char hdr[8192] = ""; signal(SIGPIPE, SIG_IGN);
    for (int i = 1; i + 1 < argc; i += 2) {
        char *k = argv[i], *v = argv[i + 1];
        if (!strcmp(k, "--port")) port = atoi(v); else if (!strcmp(k, "--path")) path = v; else if (!strcmp(k, "--body")) bodyf = v;
        else if (!strcmp(k, "--conns")) n = atoi(v); else if (!strcmp(k, "--seconds")) secs = atof(v); else if (!strcmp(k, "--warmup")) warm = atof(v);
        else if (!strcmp(k, "--rate")) rate = atof(v); else if (!strcmp(k, "--transit")) want_transit = atoi(v); else if (!strcmp(k, "--once")) once = atoi(v);
        else if (!strcmp(k, "--header")) { strncat(hdr, v, sizeof hdr - strlen(hdr) - 3); strcat(hdr, "\r\n"); }
        else { fprintf(stderr, "unknown option %s\n", k); return 2; }
    }
    struct rlimit rl; getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl);
    FILE *f = bodyf ? fopen(bodyf, "rb") : 0; if (!f || !port) { fprintf(stderr, "--body and --port are needed\n"); return 2; }
    char *body = malloc(1 << 24); size_t bn = fread(body, 1, 1 << 24, f); fclose(f);
    req = malloc(bn + 16384); reqn = sprintf(req, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: */*\r\n%sContent-Length: %zu\r\n\r\n", path, port, hdr, bn); memcpy(req + reqn, body, bn); reqn += bn;
    ep = epoll_create1(0); C *cs = calloc(n, sizeof(C)); idle = calloc(n, sizeof *idle);
    for (int i = 0; i < n; i++) { dial(&cs[i]); if (cs[i].fd < 0) { fprintf(stderr, "cannot connect to port %d\n", port); return 1; } }
    uint64_t t0 = now(); t_measure = t0 + (uint64_t)(warm * 1e9); t_end = t_measure + (uint64_t)(secs * 1e9); uint64_t hard = t_end + 5000000000ull, step = rate > 0 ? (uint64_t)(1e9 / rate) : 0; next_due = t0;
    if (rate > 0) for (int i = 0; i < n; i++) idle[nidle++] = &cs[i]; else for (int i = 0; i < n; i++) fire(&cs[i], now());
    struct epoll_event ev[512]; char buf[65536];
    for (;;) {
        uint64_t t = now(); int busy = 0;
        if (rate > 0) while (nidle && next_due <= t && next_due < t_end) { C *c = idle[--nidle]; fire(c, next_due); next_due += step; if (!c->busy && !c->gone) idle[nidle++] = c; }
        if (once || t >= t_end) { for (int i = 0; i < n; i++) busy += cs[i].busy; if (!busy) break; if (t > (once ? hard : t_end + 2000000000ull)) { if (once) errs += busy; break; } }
        int to = 100; if (rate > 0 && nidle) { t = now(); to = next_due > t ? (int)((next_due - t) / 1000000) : 0; }
        int k = epoll_wait(ep, ev, 512, to);
        for (int i = 0; i < k; i++) {
            C *c = ev[i].data.ptr; ssize_t r = recv(c->fd, buf, sizeof buf, MSG_DONTWAIT); uint64_t u = now();
            if (r < 0 && errno == EAGAIN) continue;
            if (r <= 0) { int b = c->busy; c->busy = 0; if (b) { if (c->state == BODY && c->left > (1ll << 50)) { c->close_after = 1; finish(c, u); continue; } errs++; } redial(c); if (b && rate > 0) idle[nidle++] = c; else if (b && !once && u < t_end) fire(c, u); continue; }
            if (!c->busy) continue;
            if (!c->first) c->first = u;
            bytes += r;
            int d = feed(c, buf, r, u); if (d) finish(c, u);
        }
    }
    double el = once ? (now() - t0) / 1e9 : secs; qsort(lat.v, lat.n, 4, cmp); qsort(ttfb.v, ttfb.n, 4, cmp); qsort(transit.v, transit.n, 4, cmp);
    printf("{\"rps\":%.1f,\"done\":%lld,\"ok\":%lld,\"non200\":%lld,\"errors\":%lld,\"reconnects\":%lld,\"issued\":%lld,\"bytes\":%lld,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f,\"ttfb50\":%.1f,\"ttfb99\":%.1f,\"events\":%lld,\"tr50\":%.1f,\"tr99\":%.1f}\n",
        done / el, done, ok, non200, errs, reconn, issued, bytes, pct(&lat, .5), pct(&lat, .9), pct(&lat, .99), pct(&lat, 1), pct(&ttfb, .5), pct(&ttfb, .99), events, pct(&transit, .5), pct(&transit, .99));
    return 0;
}
