# What a Rails app does, without Rails: runs behind the adapter that docs/producers.md shows, with the real gems.
# Enqueues in the way that its argument names, and prints each job that it meant in the native form, one a line.
require "active_job"
require "active_support/all"
require "global_id"
require "redis"

GlobalID.app = "webpage-versions-db"
ActiveJob::Base.logger = Logger.new(nil)

Version = Struct.new(:id) do
  include GlobalID::Identification
end

class AnalyzeChangeJob < ActiveJob::Base
  queue_as :analysis

  def perform(to_version, from_version = nil, compare_earliest: true)
    raise "not here: #{to_version}, #{from_version}, #{compare_earliest}"
  end
end

def version = Version.new(SecureRandom.uuid)

def meant(job, to, more = {})
  puts JSON.generate({ v: 1, id: job.job_id, to: to.id, compare_earliest: true }.merge(more))
end

redis = Redis.new(url: ENV.fetch("ANALYSIS_REDIS_URL"))
case ARGV.fetch(0)
when "adapter"
  AnalyzeChangeJob.queue_adapter = WmAnalysisAdapter.new
  to = version
  at = Time.at(Time.now.to_i + 86_400, 500, :millisecond)
  job = AnalyzeChangeJob.set(wait_until: at, priority: -1).perform_later(to)
  meant(job, to, run_at: at.utc.iso8601(3), priority: "high")
  # As ActiveJob.perform_all_later does it since Rails 7.1.
  versions = Array.new(3) { version }
  jobs = versions.map { |each| AnalyzeChangeJob.new(each) }
  raise "counts what it enqueued" unless AnalyzeChangeJob.queue_adapter.enqueue_all(jobs) == 3
  jobs.zip(versions) { |each, its| meant(each, its) }
  to, from = version, version
  meant(AnalyzeChangeJob.perform_later(to, from), to, from: from.id)
  meant(AnalyzeChangeJob.set(priority: 10).perform_later(from), from, priority: "low")
when "sidekiq"
  require "sidekiq"
  Sidekiq.logger.level = Logger::ERROR
  Sidekiq.redis = { url: ENV.fetch("ANALYSIS_REDIS_URL") }
  AnalyzeChangeJob.queue_adapter = :sidekiq
  to, from = version, version
  meant(AnalyzeChangeJob.perform_later(to), to)
  meant(AnalyzeChangeJob.perform_later(to, from, compare_earliest: false), to, from: from.id, compare_earliest: false)
  meant(AnalyzeChangeJob.perform_later(from, compare_earliest: false), from, compare_earliest: false)
  # Not for now, so it stays where Sidekiq keeps such jobs until its own processes move it.
  AnalyzeChangeJob.set(wait: 1.hour).perform_later(version)
  to, from = version, version
  jid = Sidekiq::Client.push("class" => "Compare", "queue" => "analysis",
                             "args" => [{ "v" => 1, "from" => from.id, "to" => to.id }])
  puts JSON.generate(v: 1, id: jid, from: from.id, to: to.id)
when "resque"
  # Resque is not packaged: its format, as of the last version of the db app that had it.
  3.times do
    to = version
    job = AnalyzeChangeJob.new(to)
    item = { "class" => "ActiveJob::QueueAdapters::ResqueAdapter::JobWrapper", "args" => [job.serialize] }
    redis.sadd("resque:queues", "analysis")
    redis.rpush("resque:queue:analysis", JSON.generate(item))
    meant(job, to)
  end
when "plain"
  job = { v: 1, id: "from-ruby", from: version.id, to: version.id }
  redis.rpush("wm:{analysis}:inbox", JSON.generate(job))
  puts JSON.generate(job)
end
