// Starts the RAS threads of NODES x PER_NODE processes without GPUs; the counters they report are set from standard input.
#include "alloc.h"
#include "checks.h"
#include "comm.h"
#include "nccl.h"
#include "ras.h"
#include "transport.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <cstdarg>
#include <ctime>
#include <string>
#include <iostream>
#include <sstream>
#include <thread>

struct Shared { volatile int ready; volatile int go; struct rasRankInit ranks[64]; };
static const char* names[] = {"Broadcast","Reduce","AllGather","ReduceScatter","AllReduce"};
int main(int argc, char** argv) {
  int nodes = atoi(argv[1]), per = atoi(argv[2]), base = atoi(argv[3]), nComms = argc > 4 ? atoi(argv[4]) : 1, n = nodes * per;
  Shared* sh = (Shared*)mmap(0, sizeof(Shared), PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
  // Communicator c: c==0 the world; c>0: ranks of node c-1.
  size_t size = sizeof(ncclComm);
  char* pool = (char*)mmap(0, size * n * nComms, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
  uint32_t* aborts = (uint32_t*)mmap(0, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
  ncclPeerInfo* infos = (ncclPeerInfo*)mmap(0, sizeof(ncclPeerInfo) * n * nComms, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);
  auto at = [&](int c, int r) { return (ncclComm*)(pool + size * (c * n + r)); };
  uint64_t hash0 = 0xce3ea3c3ab59e5a4ULL;
  pid_t pids[64];
  for (int r = 0; r < n; r++) {
    pids[r] = fork();
    if (pids[r] == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      int node = r / per;
      char addr[64]; snprintf(addr, sizeof addr, "127.0.0.1:%d", base + node);
      setenv("NCCL_RAS_ADDR", addr, 1);
      struct rasRankInit me; memset(&me, 0, sizeof me);
      char own[64]; snprintf(own, sizeof own, "127.0.%d.1:0", node + 1);
      ncclSocketGetAddrFromString(&me.addr, own);
      me.pid = getpid(); me.cudaDev = me.nvmlDev = r % per; me.hostHash = 0x1000 + node; me.pidHash = 0x100000 + getpid();
      for (int c = 0; c < nComms; c++) {
        if (c > 0 && node != c - 1) continue;
        ncclComm* comm = at(c, r);
        comm->rank = c ? r % per : r; comm->nRanks = c ? per : n; comm->cudaDev = comm->nvmlDev = r % per;
        comm->commHash = hash0 + c * 0x1111111; comm->abortFlag = aborts + r; comm->peerInfo = infos + c * n; comm->peerInfoValid = true;
        if (ncclRasCommInit(comm, &me) != ncclSuccess) { fprintf(stderr, "init failed\n"); _exit(1); }
        ncclPeerInfo* info = infos + c * n + comm->rank; info->rank = comm->rank; info->cudaDev = info->nvmlDev = r % per;
        info->hostHash = me.hostHash + comm->commHash; info->pidHash = me.pidHash + comm->commHash;
      }
      sh->ranks[r] = me;
      __sync_fetch_and_add(&sh->ready, 1);
      while (!sh->go) usleep(1000);
      struct rasRankInit* all = (struct rasRankInit*)malloc(sizeof(me) * n); memcpy(all, sh->ranks, sizeof(me) * n);
      ncclRasAddRanks(all, n);
      for (;;) pause();
    }
  }
  while (sh->ready < n) usleep(1000);
  sh->go = 1;
  printf("pids"); for (int r = 0; r < n; r++) printf(" %d", pids[r]); printf("\n"); fflush(stdout);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream in(line); std::string word; int c, r; in >> word >> c >> r;
    if (word == "kill") { kill(pids[r], SIGKILL); }
    else if (word == "stop") { kill(pids[r], SIGSTOP); }
    else if (word == "cont") { kill(pids[r], SIGCONT); }
    else { std::string what; long v; in >> what >> v; ncclComm* comm = at(c, r);
      for (int k = 0; k < 5; k++) if (what == names[k]) comm->seqNumber[k] = v;
      if (what == "init") comm->initState = (ncclResult_t)v;
      if (what == "async") comm->asyncResult = (ncclResult_t)v;
      if (what == "finalize") comm->finalizeCalled = v;
      if (what == "destroy") comm->destroyFlag = v;
      if (what == "abort") aborts[r] = v; }
    printf("ok\n"); fflush(stdout);
  }
  for (int r = 0; r < n; r++) kill(pids[r], SIGKILL);
}
// What the RAS threads call in the rest of NCCL.
thread_local int ncclDebugNoWarn = 0; 
int ncclDebugLevel = 0; uint64_t ncclDebugMask = 0;
void ncclDebugLogInternal(ncclDebugLogLevel, unsigned long, char const*, char const*, int, char const*, ...) {}
const char* ncclEnvPluginGetEnv(char const* n) { return getenv(n); }
const char* ncclFuncStr[NCCL_NUM_FUNCTIONS] = {"Broadcast","Reduce","AllGather","ReduceScatter","AllReduce"};
const char* ncclFuncToString(ncclFunc_t f) { return ncclFuncStr[f]; }
void ncclSetThreadName(std::thread&, char const*, ...) {}
ncclResult_t ncclInitEnv() { return ncclSuccess; }
extern "C" bool ncclParamIsCacheDisabled(const char*) { return false; }
int ncclParamSetCpuStackSize() { return 0; }
