-- Change a job, and in the same step the message that lets a worker make its next step.
-- KEYS[1]  job       HASH of the job: spec, message (its id), state, token, created, changed, ended, expires, progress,
--                    underway, n:<counter>
-- KEYS[2]  jobs      ZSET job -> when it was started
-- KEYS[3]  messages  HASH id -> envelope and stored form
-- KEYS[4]  leased    ZSET id -> end of its lease
-- KEYS[5]  leases    HASH id -> token
-- KEYS[6]  limits    HASH lane -> its limits
-- KEYS[7]  next      STRING time of the next claim
-- KEYS[8]  wake      LIST of at most one token
-- KEYS[9]  stats     HASH of counters
-- KEYS[10] waiting of the message's lane (ZSET id -> due time)
-- KEYS[11] lanes of its rank (ZSET lane -> when to look at it)
-- ARGV[1]  milliseconds: a sleeping worker looks again within this time by itself
-- ARGV[2]  the job's id
-- ARGV[3]  the id of the message, ARGV[4] its lane reference, ARGV[5] envelope and stored form
-- ARGV[6]  what is done; the rest is
--   'add'     what the job is to do
--   'take'    the token of the step that begins. A step before it can change nothing any more.
--   'save'    the step's token, progress, what is on its way, milliseconds until the next step or -1 (this one goes on),
--             then names of counters and their values
--   'end'     the step's token, progress, the state, milliseconds for which it is kept
--   'pause', 'resume', 'abort'  milliseconds for which it is kept
-- Returns {the state before, or nothing if there is no such job; 1 if it was changed, else 0}
local job, messages, leased, leases, waiting, lanes = KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[10], KEYS[11]
local id, lane, what = ARGV[3], string.sub(ARGV[4], 2), ARGV[6]
local now = clock()

-- Let a worker make a step at that time.
local function put(due)
  local is_new = redis.call('HSET', messages, id, ARGV[5]) == 1
  redis.call('HDEL', leases, id)
  redis.call('ZREM', leased, id)
  redis.call('ZADD', waiting, string.format('%.0f', due), id)
  claim_by(KEYS[7], KEYS[8], look_at(lanes, KEYS[6], lane, due), now + ARGV[1])
  redis.call('HINCRBY', KEYS[9], is_new and 'stored' or 'replaced', 1)
end

-- Let no worker make a step; a lease of one that is being made becomes void.
local function take_away()
  if redis.call('HDEL', messages, id) == 0 then return end
  redis.call('HDEL', leases, id)
  redis.call('ZREM', leased, id)
  redis.call('ZREM', waiting, id)
  if redis.call('EXISTS', waiting) == 0 then redis.call('ZREM', lanes, lane) end
  redis.call('HINCRBY', KEYS[9], 'cancelled', 1)
end

local function set(...) redis.call('HSET', job, 'changed', now, ...) end

local function finish(state, keep)
  set('state', state, 'ended', now, 'expires', string.format('%.0f', now + keep))
  redis.call('PEXPIRE', job, keep)
end

local found = redis.call('HMGET', job, 'state', 'token')
local state = found[1] or ''
local is_running = state == 'running'

if what == 'add' then
  -- The same one is this one: the answer to an earlier call was lost.
  if state ~= '' then return { state, redis.call('HGET', job, 'spec') == ARGV[7] and 1 or 0 } end
  set('spec', ARGV[7], 'state', 'running', 'created', now, 'message', id)
  redis.call('ZADD', KEYS[2], now, ARGV[2])
  put(now)
  return { state, 1 }
elseif what == 'take' then
  if is_running then redis.call('HSET', job, 'token', ARGV[7]) end
  return { state, is_running and 1 or 0 }
elseif what == 'save' or what == 'end' then
  if not is_running or found[2] ~= ARGV[7] then return { state, 0 } end
  if what == 'save' then
    set('progress', ARGV[8], 'underway', ARGV[9])
    for a = 11, #ARGV, 2 do redis.call('HSET', job, 'n:' .. ARGV[a], ARGV[a + 1]) end
    local message = redis.call('HGET', messages, id)
    if tonumber(ARGV[10]) >= 0 then
      put(now + ARGV[10])
    elseif message then
      -- It makes progress, so that lost workers were not its fault.
      redis.call('HSET', messages, id, without_losses(message))
    end
  else
    set('progress', ARGV[8], 'underway', '')
    finish(ARGV[9], ARGV[10])
  end
  return { state, 1 }
elseif what == 'pause' then
  if not is_running then return { state, 0 } end
  set('state', 'paused')
  take_away()
  return { state, 1 }
elseif what == 'resume' then
  local is_stalled = is_running and redis.call('HEXISTS', messages, id) == 0
  if not (is_stalled or state == 'paused' or state == 'failed') then return { state, 0 } end
  set('state', 'running')
  redis.call('HDEL', job, 'token', 'ended', 'expires')
  redis.call('PERSIST', job)
  put(now)
  return { state, 1 }
elseif what == 'abort' then
  if not is_running and state ~= 'paused' then return { state, 0 } end
  finish('aborted', ARGV[7])
  take_away()
  return { state, 1 }
end
