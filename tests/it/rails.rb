# The db app's job behind the adapter of docs/producers.md, and a job for each version of the environment. What is done
# with them follows.
GlobalID.app = "webpage-versions-db"
ActiveJob::Base.logger = Logger.new(nil)

Version = Struct.new(:id) do
  include GlobalID::Identification
end

class AnalyzeChangeJob < ActiveJob::Base
  self.queue_adapter = WmAnalysisAdapter.new
  queue_as :analysis

  def perform(to_version, from_version = nil, compare_earliest: true) = raise("not here")
end

jobs = ENV.fetch("VERSIONS").split.map { |uuid| AnalyzeChangeJob.new(Version.new(uuid)) }
