-- Change chains, one step after the other. A step may be repeated: what has happened already is left as it is.
-- KEYS[1]  messages          HASH id -> envelope and stored form
-- KEYS[2]  leased            ZSET id -> end of its lease
-- KEYS[3]  leases            HASH id -> token
-- KEYS[4]  limits            HASH lane -> its limits
-- KEYS[5]  next              STRING time of the next claim
-- KEYS[6]  wake              LIST of at most one token
-- KEYS[7]  stats             HASH of counters
-- KEYS[8]  chained           ZSET of the members of all chains, by name and place
-- KEYS[9]  chained:entries   HASH member -> entry
-- KEYS[10] chained:heads     HASH id -> member
-- KEYS[11..] for each lane reference: waiting (ZSET id -> due time), lanes of its rank (ZSET lane -> when to look at it)
-- ARGV[1]  milliseconds: a sleeping worker looks again within this time by itself
-- ARGV[2]  the token of this call
-- ARGV[3]  milliseconds for which a reader may take a member without renewing that
-- ARGV[4]  the number of lane references; ARGV[5..] the references
-- then for each step: what ('arrive', 'wait', 'finish', 'renew', 'return', 'gone', 'release', 'break-up'), the chain's name, place, attempt,
--          1 to hold the chain after a dead letter (or 0), how many members the reader wants, id, due time in Unix
--          milliseconds, envelope and stored form ('' for none)
-- Returns {references that were needed too, answers}: there are fewer answers than steps if a lane's keys are missing.
--          An answer is {outcome, 1 if the chain has members (or 0), id, place, attempt, stored form, ...}.
local references = tonumber(ARGV[4])
local number_of, needed, answers = {}, {}, {}
for i = 1, references do number_of[ARGV[4 + i]] = i end
local now = clock()
local token, until_ms = ARGV[2], now + ARGV[3]
local chains = chains_of({
  messages = KEYS[1],
  leased = KEYS[2],
  leases = KEYS[3],
  limits = KEYS[4],
  order = KEYS[8],
  entries = KEYS[9],
  heads = KEYS[10],
  now = now,
  needed = needed,
  lane = function(reference)
    local number = number_of[reference]
    if number then return KEYS[9 + 2 * number], KEYS[10 + 2 * number] end
  end,
})
-- A copy in the same call is a copy, and not a repeated call.
local given = {}

for p = 5 + references, #ARGV, 9 do
  local what, name, place, attempt = ARGV[p], ARGV[p + 1], ARGV[p + 2], tonumber(ARGV[p + 3])
  local hold, want, id = tonumber(ARGV[p + 4]), tonumber(ARGV[p + 5]), ARGV[p + 6]
  local due, message = tonumber(ARGV[p + 7]), ARGV[p + 8]
  local answer
  if what == 'arrive' then
    local outcome
    if given[name .. '/' .. place] then
      outcome = 'dropped'
    else
      outcome = chains.arrive(name, place, attempt, hold, id, due, message, until_ms, token)
    end
    if outcome == 'taken' then given[name .. '/' .. place] = true end
    answer = outcome and { outcome, 1 }
  elseif what == 'wait' then
    local outcome = chains.wait(name, place, attempt, hold, id, due, message)
    answer = outcome and { outcome, 1 }
  elseif what == 'finish' then
    local is_open, taken = chains.finish(name, place, attempt, hold, id, due, message, want, until_ms, token)
    answer = is_open and { 'finished', is_open, unpack(taken) }
  elseif what == 'renew' or what == 'return' then
    local is_kept = chains.renew(name, place, attempt, what == 'renew' and until_ms or now)
    answer = is_kept and { is_kept == 1 and 'renewed' or 'lost', 1 }
  elseif what == 'gone' then
    answer = chains.left(id, hold == 1) and { 'gone', 0 }
  elseif what == 'release' then
    local count = chains.release(name)
    answer = count and { 'released', count }
  else
    local count = chains.break_up(name)
    answer = count and { 'broken-up', count }
  end
  if not answer then break end
  answers[#answers + 1] = answer
end
if chains.at then claim_by(KEYS[5], KEYS[6], chains.at, now + ARGV[1]) end
if chains.stored > 0 then redis.call('HINCRBY', KEYS[7], 'stored', chains.stored) end
if chains.finished > 0 then redis.call('HINCRBY', KEYS[7], 'finished', chains.finished) end
return { needed, answers }
